"""From published checkpoints to ready-to-run folders. Loading a Hugging Face folder as it is: `gptoss_mlx.weights`."""
