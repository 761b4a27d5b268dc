#!/bin/bash
# A Ray cluster within one Slurm job, and a search on it:
#
#   sbatch deploy/slurm.sh space=crnn data.root=/shared/music storage=/shared/results data.prepared=/shared/prepared
#
# What follows the script's name is the command line of `python -m tuning.run`. Submit from the project's root, on a file
# system that all nodes see, with an environment in .venv (or VENV=/path). A job that ran out of time is gone on with by
# the same command. Tested: with stand-ins for srun and scontrol on one machine. Never launched on a Slurm cluster.

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
# An address of its first network; the name may stand for 127.0.1.1 on the node itself.
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')
# Several jobs may share a node: a port for each job.
port=$((20000 + SLURM_JOB_ID % 20000))

# Everyone on these nodes could reach our Ray: a token for this job alone, which srun hands on to its steps.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0

cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}
started=()
trap 'kill "${started[@]}" 2>/dev/null || true' EXIT

# --block: the step lives as long as its Ray, and ends with the job.
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
# How many trials run at once is decided when the search begins, so all nodes have to be there.
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

# Slurm signals this shell, which hands the signal on and waits for the search to close its books.
python -m tuning.run "$@" &
search=$!
trap 'kill -TERM "$search"' TERM
code=0
wait "$search" || code=$?
# Interrupted by the trap, `wait` returns before the search has ended.
while kill -0 "$search" 2>/dev/null; do code=0; wait "$search" || code=$?; done
exit "$code"
