"""How fast a model runs and how much memory it takes: our engine alone, or in turn with mlx-lm.

Every run is a process of its own (`worker`), for load time and peak memory say something in a fresh process only, and
two large models do not fit side by side. The parent (`race`) imports no MLX, alternates the engines, and keeps what was
measured when a run fails.
"""
