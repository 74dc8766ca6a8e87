"""Training of the embedded default model and its shipped files: ``python -m pmq.models.train_embedded --help``.

Fashion-MNIST is Debian's package ``dataset-fashion-mnist``. Most epochs use a random half of the patches (timm's patch
dropout), which halves their cost; the last ones use all patches. The shipped weights are an exponential moving average. The
test images are not used for any selection. A killed run resumes from ``--work`` with the same command.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pmq.models.embedded import ASSETS, PRETRAINED_CFG, embedded_architecture

#: training images that ship for calibration
N_CALIBRATION = 1000


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of unsigned bytes."""
    raw = gzip.decompress(path.read_bytes())
    n_dims = raw[3]
    shape = np.frombuffer(raw, ">i4", count=n_dims, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * n_dims).reshape(shape)


def normalise(images: np.ndarray | Tensor) -> Tensor:
    """Convert bytes ``(B, 28, 28)`` to the model's input ``(B, 1, 28, 28)``."""
    x = torch.as_tensor(images).unsqueeze(1).float() / 255
    return (x - PRETRAINED_CFG["mean"][0]) / PRETRAINED_CFG["std"][0]


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each image at random, shift it by up to two pixels, and erase a random square of it."""
    b, _, h, w = x.shape
    x = torch.where(torch.rand(b, 1, 1, 1, generator=generator) < 0.5, x.flip(3), x)
    padded = nn.functional.pad(x, (2, 2, 2, 2), value=float(x.min()))
    dy, dx = torch.randint(0, 5, (2, b, 1, 1), generator=generator)
    rows = (torch.arange(h).view(1, h, 1) + dy).expand(b, h, w)
    cols = (torch.arange(w).view(1, 1, w) + dx).expand(b, h, w)
    x = padded[torch.arange(b).view(b, 1, 1), 0, rows, cols].unsqueeze(1)
    size = torch.randint(0, 11, (b, 1, 1), generator=generator)
    top, left = torch.randint(0, h - 5, (2, b, 1, 1), generator=generator)
    row, col = torch.arange(h).view(1, h, 1), torch.arange(w).view(1, 1, w)
    erased = (row >= top) & (row < top + size) & (col >= left) & (col < left + size)
    return x.masked_fill(erased.unsqueeze(1), 0.0)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy in percent."""
    model.eval()
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500), strict=True))
    return 100.0 * hits / len(labels)


def train(args: argparse.Namespace) -> nn.Module:
    """Train, save a checkpoint under ``args.work`` after each epoch, and return the averaged model."""
    images = normalise(read_idx(args.data / "train-images-idx3-ubyte.gz"))
    labels = torch.from_numpy(read_idx(args.data / "train-labels-idx1-ubyte.gz").astype(np.int64))
    torch.manual_seed(args.seed)
    model = embedded_architecture(patch_drop_rate=args.patch_drop, drop_path_rate=0.05)
    average = embedded_architecture()
    average.load_state_dict(model.state_dict())
    decayed = [p for p in model.parameters() if p.ndim > 1]
    undecayed = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": undecayed, "weight_decay": 0.0}])
    steps_per_epoch = len(labels) // args.batch_size
    checkpoint = args.work / "last.pt"
    first, state = 0, None
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
    schedule = None
    for epoch in range(first, args.epochs + args.restart_epochs):
        if epoch >= args.epochs - args.full_epochs:
            model.patch_drop = nn.Identity()
        if epoch in (0, args.epochs):  # two learning-rate cycles, the second with a lower peak
            schedule = _cycle(optimizer, args, epoch, steps_per_epoch)
        elif schedule is None and state is not None:
            schedule = _cycle(optimizer, args, epoch, steps_per_epoch)
            schedule.load_state_dict(state["schedule"])
        assert schedule is not None
        generator = torch.Generator().manual_seed(args.seed * 1000 + epoch)
        order = torch.randperm(len(labels), generator=generator)
        model.train()
        start, total = time.perf_counter(), 0.0
        for step in range(steps_per_epoch):
            batch = order[step * args.batch_size : (step + 1) * args.batch_size]
            loss = nn.functional.cross_entropy(model(augment(images[batch], generator)), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
            decay = min(0.998, (epoch * steps_per_epoch + step + 1) / (epoch * steps_per_epoch + step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        state = {"model": model.state_dict(), "average": average.state_dict(), "epoch": epoch}
        state |= {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        torch.save(state, checkpoint.with_suffix(".tmp"))
        checkpoint.with_suffix(".tmp").replace(checkpoint)
        seconds = time.perf_counter() - start
        print(
            f"epoch {epoch + 1}/{args.epochs + args.restart_epochs} loss {total / steps_per_epoch:.4f} {seconds:.0f} s",
            flush=True,
        )
    return average


def _cycle(
    optimizer: torch.optim.Optimizer, args: argparse.Namespace, epoch: int, steps_per_epoch: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Create the scheduler of the learning-rate cycle that contains ``epoch``."""
    again = epoch >= args.epochs
    lr, epochs = (args.restart_lr, args.restart_epochs) if again else (args.lr, args.epochs)
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps_per_epoch, pct_start=0.1)


def write_images(data: Path, out: Path, seed: int) -> None:
    """Write the test images and a seeded sample of training images as compressed NumPy archives."""
    test: Any = {
        "images": read_idx(data / "t10k-images-idx3-ubyte.gz"),
        "labels": read_idx(data / "t10k-labels-idx1-ubyte.gz"),
    }
    np.savez_compressed(out / "test.npz", **test)
    images, labels = read_idx(data / "train-images-idx3-ubyte.gz"), read_idx(data / "train-labels-idx1-ubyte.gz")
    chosen = np.sort(np.random.default_rng(seed).choice(len(labels), N_CALIBRATION, replace=False))
    np.savez_compressed(out / "train.npz", images=images[chosen], labels=labels[chosen])


def main() -> None:
    """Parse the command line, train, and write the assets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the resumable checkpoint")
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--full-epochs", type=int, default=6, help="number of last epochs that use every patch")
    parser.add_argument("--restart-epochs", type=int, default=8, help="epochs of the second learning-rate cycle")
    parser.add_argument("--restart-lr", type=float, default=1e-3)
    parser.add_argument("--patch-drop", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    write_images(args.data, args.out, args.seed)
    model = train(args)
    save_file(model.state_dict(), args.out / "model.safetensors")
    shipped = embedded_architecture()
    shipped.load_state_dict(load_file(args.out / "model.safetensors"))
    test = np.load(args.out / "test.npz")
    top1 = accuracy(shipped, normalise(test["images"]), torch.from_numpy(test["labels"].astype(np.int64)))
    print(f"top-1 on the {len(test['labels'])} test images: {top1:.2f} %")


if __name__ == "__main__":
    main()
