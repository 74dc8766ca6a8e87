"""Which figures a run has."""

from __future__ import annotations

from pmq.report.heatmap import plot_heatmap
from pmq.report.pareto import plot_pareto
from pmq.report.pruning import plot_pruning
from pmq.report.rounds import plot_rounds
from pmq.report.sensitivity import plot_sensitivity
from pmq.report.spent import plot_spent

#: of every run; and of those of a search
PANELS = (plot_pruning,)
SEARCHED = (plot_pareto, plot_sensitivity, plot_heatmap, plot_spent, plot_rounds)
