"""The verbs: every command as a function on objects that the user has. The command line only parses and prints."""

from pmq.api.demo import demo
from pmq.api.deploy import deploy
from pmq.api.evaluate import evaluate
from pmq.api.export import export
from pmq.api.finetune import finetune
from pmq.api.open_images import open_images
from pmq.api.profile import profile
from pmq.api.prune import prune
from pmq.api.rank import rank
from pmq.api.reallocate import reallocate
from pmq.api.resolve import resolve
from pmq.api.search import search
from pmq.api.sensitivity import sensitivity
from pmq.api.simulate import simulate
from pmq.evaluation import RayOptions
from pmq.models import create_model
from pmq.models.prepared import with_output
from pmq.pipeline.distillation import Finetuned
from pmq.pipeline.metric_ranks import Ranks
from pmq.pipeline.patches.figures import draw_patches
from pmq.pipeline.pruned_model import load_pruned
from pmq.pipeline.pruning_plan import Pruned
from pmq.pipeline.search.options import DataSplit, RunOptions, SearchOptions
from pmq.pipeline.search.result import SearchResult
from pmq.reporting import plot_run as plot
from pmq.reporting import write_report as report

__all__ = [
    "DataSplit",
    "Finetuned",
    "Pruned",
    "Ranks",
    "RayOptions",
    "RunOptions",
    "SearchOptions",
    "SearchResult",
    "create_model",
    "demo",
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
    "resolve",
    "search",
    "sensitivity",
    "simulate",
    "with_output",
]
