"""Names of what takes turns in a row, as the results have them. Here so that tables and pictures need no torch."""

OURS, OURS_GRAPH = "ours", "ours, CUDA graph"
NAMES = {
    "loop": "eager loop over clients",
    "stacked": "stacked eager",
    "stacked graph": "stacked eager, CUDA graph",
    "compiled graph": "torch.compile of stacked, CUDA graph",
    "GRU": "nn.GRU per client",
    "GRU graph": "2 x nn.GRU side by side, CUDA graph",
}
SIDE_BY_SIDE = "2 x nn.GRU side by side"  # "GRU" for one client
