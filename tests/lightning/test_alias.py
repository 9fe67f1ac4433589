"""Libraries that import ``pytorch_lightning``, behind ``alias_pytorch_lightning()``: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARY = """
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback
from pytorch_lightning.utilities.model_summary.model_summary import ModelSummary
from lightning_fabric.utilities.seed import seed_everything

class Forecaster(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(40, 3), 10)

def trained(model):
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    callback = LambdaCallback(on_train_start=lambda trainer, module: print("began"))
    trainer = pl.Trainer(max_epochs=1, callbacks=[callback], enable_model_summary=False, **options)
    trainer.fit(model, datamodule=Data())
    return model
"""
ALIASED = "import ts_lightning; ts_lightning.alias_pytorch_lightning()"
CASES = {
    "a fit": f"""
{ALIASED}
import library
model = library.trained(ts_lightning.convert(library.Forecaster()))
print(*model.target_space_engine.targets)
""",
    "the mixin": f"""
{ALIASED}
import library
class Mixed(ts_lightning.TargetSpaceMixin, library.Forecaster):
    pass
print(*library.trained(Mixed()).target_space_engine.targets)
""",
}


def ended(folder, script):
    """A process that has run a script beside the library."""
    (folder / "library.py").write_text(LIBRARY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("script", CASES.values(), ids=CASES)
def test_modules_of_a_library_train_in_target_space(script, tmp_path):
    run = ended(tmp_path, script)
    assert (run.returncode, run.stdout) == (0, "began\nnet.0 net.2\n"), run.stderr


def test_a_file_of_ones_own_brings_the_library_to_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text(f"{ALIASED}\nfrom library import Data, Forecaster\n")
    options = [
        "--model",
        "mine.Forecaster",
        "--data",
        "mine.Data",
        "--trainer.fast_dev_run",
        "1",
        "--target_space",
        "{}",
    ]
    run = ended(tmp_path, f"from ts_lightning.cli.main import main; main({['fit', *options]})")
    assert run.returncode == 0, run.stderr
    assert "2 of 2 layers" in run.stdout + run.stderr


def test_both_names_are_one_library_which_keeps_its_own(tmp_path):
    script = f"""
{ALIASED}
import lightning.fabric, lightning.pytorch as pl
ts_lightning.alias_pytorch_lightning()
import lightning_fabric, pytorch_lightning, pytorch_lightning.callbacks.early_stopping as stopping
assert pytorch_lightning is pl and lightning_fabric is lightning.fabric
assert stopping.EarlyStopping is pl.callbacks.EarlyStopping
assert (pl.__spec__.name, pl.__name__) == ("lightning.pytorch", "lightning.pytorch")
assert stopping.__spec__.name == "lightning.pytorch.callbacks.early_stopping"
try:
    import pytorch_lightning.nothing
except ModuleNotFoundError as error:
    assert error.name == "pytorch_lightning.nothing", error
else:
    raise AssertionError
"""
    run = ended(tmp_path, script)
    assert run.returncode == 0, run.stderr


def test_a_call_behind_the_import_is_refused(tmp_path):
    run = ended(tmp_path, f"import pytorch_lightning; {ALIASED}")
    assert run.returncode == 1
    said = run.stderr.splitlines()[-1]
    assert "alias_pytorch_lightning: pytorch_lightning and lightning_fabric were imported before. Call it first" in said
