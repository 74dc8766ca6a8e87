"""Accuracy of a model against labels and against its FP32 self, streamed batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from pmq.quant import output_error


@dataclass
class Accuracy:
    """Running sums; :meth:`compute` turns them into figures.

    >>> import torch
    >>> sums = Accuracy()
    >>> fp32, simulated = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[2.0, 1.0], [1.0, 0.0]])
    >>> sums.update(fp32, simulated, torch.tensor([0, 1]))
    >>> {k: v and round(v, 2) for k, v in sums.compute().items()}
    {'top1': 50.0, 'top5': 100.0, 'agreement': 50.0, 'kl': 0.54, 'feature_error': None, 'n_images': 2}
    """

    n_images: int = 0
    labelled: int = 0
    top1: int = 0
    top5: int = 0
    agreed: int = 0
    error: float = 0.0
    classifier: bool = True

    def update(self, reference: Tensor, output: Tensor, labels: Tensor | None = None) -> None:
        """Add a batch: logits (or features) ``(B, C)`` of FP32 and of the model judged; labels ``(B,)``, -1 unknown."""
        self.n_images += len(output)
        self.error += float(output_error(reference, output, self.classifier).double().sum())
        if not self.classifier:
            return
        self.agreed += int((reference.argmax(1) == output.argmax(1)).sum())
        if labels is not None:
            known = labels >= 0
            best = output[known].topk(min(5, output.shape[1]), 1).indices
            hits = best == labels[known].to(best.device)[:, None]
            self.labelled += int(known.sum())
            self.top1 += int(hits[:, 0].sum())
            self.top5 += int(hits.sum())

    def __add__(self, other: Accuracy) -> Accuracy:
        """Join the sums of two parts of the images."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "classifier"}
        return Accuracy(**sums, classifier=self.classifier)

    def compute(self) -> dict[str, float | None]:
        """Percentages and means; ``None`` where there is nothing to tell."""

        def percent(count: int, of: int) -> float | None:
            return 100.0 * count / of if of else None

        mean = self.error / self.n_images if self.n_images else None
        return {
            "top1": percent(self.top1, self.labelled),
            "top5": percent(self.top5, self.labelled),
            "agreement": percent(self.agreed, self.n_images) if self.classifier else None,
            "kl": mean if self.classifier else None,
            "feature_error": None if self.classifier else mean,
            "n_images": self.n_images,
        }
