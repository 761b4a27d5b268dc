"""A training that does not import PyTorch's compiler: the same steps, and the compiler where somebody asks for it."""

import json
import subprocess
import sys

import pytest

STEPS = """
import json, sys, warnings
import torch
from tuning.config.schema import OptimSettings
from tuning.training.optimizers import make_optimizer
from tuning.training import compiler_stand_in

def train(name):
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    optimizer = make_optimizer(net.parameters(), OptimSettings(name=name))
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.ones(4, 3)).square().sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return [parameter.detach().numpy().tobytes().hex() for parameter in net.parameters()]

def imported():
    return any(name.startswith("torch._dynamo.") for name in sys.modules)
"""


def in_a_process(code: str):
    done = subprocess.run([sys.executable, "-c", STEPS + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_steps_are_those_with_the_compiler_and_do_not_import_it():
    names = ["adam", "sgd", "rmsprop"]
    code = f"print(json.dumps([[train(name) for name in {names}], imported()]))"
    steps, imported = in_a_process(code)
    with_compiler, as_well = in_a_process(f"import torch._dynamo\n{code}")
    assert steps == with_compiler and len({str(each) for each in steps}) == len(names)
    assert (imported, as_well) == (False, True)


@pytest.mark.parametrize(
    "use",
    [
        "assert torch.compile(lambda x: 2 * x, backend='eager')(torch.ones(1)).item() == 2",
        "from torch._dynamo import optimize",
    ],
)
def test_the_compiler_is_imported_where_it_is_used_and_has_its_own_functions_again(use):
    code = (
        f"train('adam')\n{use}\ntrain('adam')\n"
        "kept = torch.optim.Optimizer.add_param_group.__wrapped__.__dynamo_disable\n"
        "own = kept is not torch.optim.Optimizer.add_param_group.__wrapped__\n"
        "print(json.dumps([imported(), sys.modules['torch._dynamo'] is torch._dynamo, own]))"
    )
    assert in_a_process(code) == [True, True, True]


def test_a_compiler_that_was_imported_before_stays():
    code = "import torch._dynamo\nbefore = torch._dynamo\ntrain('adam')\nprint(json.dumps(torch._dynamo is before))"
    assert in_a_process(code) is True
