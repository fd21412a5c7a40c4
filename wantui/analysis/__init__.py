"""Analysis of stored trajectories: geometry from Gram matrices, null models, group comparisons and reports."""
