"""A training that does not import PyTorch's compiler: the same steps, and the compiler where somebody asks for it."""

import json
import subprocess
import sys

import pytest

STEPS = """
import json, sys
import torch
from tuning.config.schema import OptimSettings
from tuning.training.optimizers import make_optimizer
from tuning.training.uncompiled import Adam

def train(name):
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    kinds = {"pytorch": torch.optim.Adam, "uncompiled": Adam}
    if name in kinds:
        optimizer = kinds[name](net.parameters(), 0.01, amsgrad=True)
    else:
        optimizer = make_optimizer(net.parameters(), OptimSettings(name=name))
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.ones(4, 3)).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    return [parameter.detach().numpy().tobytes().hex() for parameter in net.parameters()]

def imported():
    return any(name.startswith("torch._dynamo") for name in sys.modules)
"""
NAMES = ["adam", "sgd", "rmsprop", "uncompiled"]


def in_a_process(code: str):
    done = subprocess.run([sys.executable, "-c", STEPS + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_steps_are_those_with_the_compiler_and_do_not_import_it():
    code = f"print(json.dumps([[train(name) for name in {NAMES}], imported(), train('pytorch')]))"
    steps, imported, _ = in_a_process(code)
    with_compiler, as_well, by_pytorch = in_a_process(f"import torch._dynamo\n{code}")
    assert steps == with_compiler and len({str(each) for each in steps}) == len(NAMES)
    assert steps[-1] == by_pytorch
    assert (imported, as_well) == (False, True)


@pytest.mark.parametrize(
    "use",
    [
        "assert torch.compile(lambda x: 2 * x, backend='eager')(torch.ones(1)).item() == 2",
        "import torch.distributed.tensor, torch._dynamo",
    ],
)
def test_the_compiler_is_there_where_it_is_used(use):
    assert in_a_process(f"train('adam')\n{use}\ntrain('adam')\nprint(json.dumps(imported()))") is True
