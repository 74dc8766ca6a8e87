"""Figures of a run."""

from __future__ import annotations

from pmq.reporting.cost_breakdown import plot_cost_breakdown
from pmq.reporting.heatmap import plot_heatmap
from pmq.reporting.pareto import plot_pareto
from pmq.reporting.pruning import plot_pruning
from pmq.reporting.rounds import plot_rounds
from pmq.reporting.sensitivity import plot_sensitivity

#: figures of every run, and figures of searches only
PANELS = (plot_pruning,)
SEARCHED = (plot_pareto, plot_sensitivity, plot_heatmap, plot_cost_breakdown, plot_rounds)
