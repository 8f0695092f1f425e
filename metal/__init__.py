"""Metal kernels and their launchers. They plug into `gptoss_mlx.ops`, which holds the MLX reference of each op."""
