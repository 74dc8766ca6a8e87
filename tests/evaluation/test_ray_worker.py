"""The worker's process, without Ray."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pmq
from pmq.evaluation.ray_worker import installed_versions, pack

SCRIPT = """
import sys
from pathlib import Path
import pmq
from pmq.evaluation.ray_worker import Worker
from pmq.models.float_products import multiplies_by_onednn

worker = Worker()
worker.begin({versions!r}, 1, "cpu", False)
worker.hold(Path(sys.argv[1]).read_bytes())
print(worker.call(lambda model: model.num_classes, ()), multiplies_by_onednn())
"""


class _Pickler(pickle.Pickler):
    """What Ray's cloudpickle has beyond this is not needed for modules of packages."""

    def reducer_override(self, value: Any) -> Any:
        return NotImplemented


def test_a_model_of_timm_is_restored_in_a_new_process(tmp_path: Path) -> None:
    model = pmq.create_model("vit_tiny_patch16_224", pretrained=False)
    state = tmp_path / "state"
    state.write_bytes(pack(model, SimpleNamespace(Pickler=_Pickler)))
    script = SCRIPT.format(versions=installed_versions())
    done = subprocess.run([sys.executable, "-c", script, str(state)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1000 False\n"), done.stderr[-500:]
