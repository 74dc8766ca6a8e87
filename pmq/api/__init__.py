"""Every command as a function on objects the user already has. The command line only parses and prints."""

from pmq.api.deploy import deploy
from pmq.api.evaluate import evaluate
from pmq.api.export import export
from pmq.api.finetune import Finetuned, finetune
from pmq.api.open_images import open_images
from pmq.api.profile import profile
from pmq.api.prune import Pruned, prune
from pmq.api.rank import Ranks, rank
from pmq.api.reallocate import reallocate
from pmq.api.search import search
from pmq.api.sensitivity import sensitivity
from pmq.api.simulate import simulate
from pmq.models import create_model
from pmq.models.prepared import with_output
from pmq.pipeline.patches.figures import draw_patches
from pmq.pipeline.pruned_model import load_pruned
from pmq.pipeline.search.options import DataSplit, RunOptions, SearchOptions
from pmq.pipeline.search.result import SearchResult
from pmq.reporting import plot_run as plot
from pmq.reporting import write_report as report

__all__ = [
    "DataSplit",
    "Finetuned",
    "Pruned",
    "Ranks",
    "RunOptions",
    "SearchOptions",
    "SearchResult",
    "create_model",
    "deploy",
    "draw_patches",
    "evaluate",
    "export",
    "finetune",
    "load_pruned",
    "open_images",
    "plot",
    "profile",
    "prune",
    "rank",
    "reallocate",
    "report",
    "search",
    "sensitivity",
    "simulate",
    "with_output",
]
