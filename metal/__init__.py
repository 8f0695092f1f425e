"""Metal kernels for gpt-oss and their launchers.

Every kernel is a pair of files of one name: `<op>.metal`, template functions in Metal's language that are legible on
their own, and `<op>.py`, the launcher, which knows shapes, grids and what the kernel assumes. `library` turns a source
into something callable. Knows no model and no cache: `gptoss_mlx.ops` decides when a kernel runs.
"""
