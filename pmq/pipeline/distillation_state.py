"""The state that a killed fine-tuning resumes from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pmq.core import PmqError
from pmq.core.checkpoints import keep
from pmq.core.errors import one_line
from pmq.core.files import is_file, quoted
from pmq.core.tensors import TensorFile
from pmq.models.distil import Distiller, check_like

#: file below the run directory with everything that a killed run resumes from
STATE = "state.safetensors"
RESUMABLE = "learned", "go on with the same command and `resume`"


def restored(state: Path, distiller: Distiller, student: nn.Module) -> tuple[list[float], TensorFile]:
    """Restore the optimizer from the state of a killed run, and return its history and best parameters; both empty if none.

    Raises:
        PmqError: the state is of another model.
    """
    keep(state, *RESUMABLE)
    if not is_file(state):
        return [], TensorFile.of({})
    arrays = TensorFile.read(state).arrays()
    try:
        distiller.restore(arrays)
        history = [float(error) for error in arrays["history"]]
        for name, parameter in student.named_parameters():
            check_like(f"best/{name}", arrays[f"best/{name}"], parameter)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:  # tensors are missing, or have other shapes
        raise PmqError(f"{quoted(state)} is not of this model: {one_line(error)}; remove it to begin again") from None
    best = {name.removeprefix("best/"): array for name, array in arrays.items() if name.startswith("best/")}
    return history, TensorFile.of(best)
