#!/bin/bash
# A Ray cluster within one Slurm job, and a search on it:
#
#   sbatch deploy/slurm.sh space=crnn data.root=/shared/music storage=/shared/results data.prepared=/shared/prepared
#
# The words after the script's name are those of `python -m tuning.run`. Submit from the project's root, on a file
# system that all nodes see, with a virtual environment in .venv (or VENV=/path). To resume a job that ran out of time,
# submit it again. Tested: with replacements for srun and scontrol on one machine. Never launched on a Slurm cluster.

#SBATCH --job-name=audio-emotion
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=12:00:00
# The search keeps its checkpoints and ranking on this signal, two minutes before the end.
#SBATCH --signal=B:TERM@120

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
PATH="${VENV:-$PWD/.venv}/bin:$PATH"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# The address on its first network; the name may resolve to 127.0.1.1 on the node itself.
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')
# Several jobs may share a node, so each job has a port of its own.
port=$((20000 + SLURM_JOB_ID % 20000))

# Everyone on these nodes can reach this Ray, so the job has a token of its own, which srun passes on to its steps.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0

cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}
started=()
trap 'kill "${started[@]}" 2>/dev/null || true' EXIT

# With --block the step runs as long as its Ray, and ends with the job.
srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$address" --port="$port" --num-cpus="$cpus" --num-gpus="$gpus" \
    --include-dashboard=false --block &
started+=($!)
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --nodelist="$node" \
        ray start --address="$address:$port" --num-cpus="$cpus" --num-gpus="$gpus" --block &
    started+=($!)
done

export RAY_ADDRESS=$address:$port
# The search decides at its start how many trials run at once, so all nodes must have joined.
python - "${#nodes[@]}" <<'PYTHON'
import sys, time
import ray

deadline = time.monotonic() + 300
wanted, found = int(sys.argv[1]), 0
while found < wanted:
    if time.monotonic() > deadline:
        sys.exit(f"only {found} of {wanted} nodes joined within five minutes")
    try:
        ray.init(logging_level="ERROR")
        found = sum(node["Alive"] for node in ray.nodes())
        ray.shutdown()
    except (ConnectionError, RuntimeError):
        pass
    time.sleep(2)
PYTHON

# Slurm signals this shell, which passes the signal on and waits until the search has written its results.
python -m tuning.run "$@" &
search=$!
trap 'kill -TERM "$search"' TERM
code=0
wait "$search" || code=$?
# Interrupted by the trap, `wait` returns before the search has ended.
while kill -0 "$search" 2>/dev/null; do code=0; wait "$search" || code=$?; done
exit "$code"
