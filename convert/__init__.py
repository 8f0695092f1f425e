"""From published checkpoints to ready-to-run folders in our own format, and checking them. FORMAT.md describes it.

    conversion.convert_model      the whole of it: disk, lock, resuming, the finished folder
    plan                          which tensors go into which file, to the byte
    pieces                        their bytes, a few megabytes at a time, quantised where that is asked for
    writer                        one file: written, hashed, made durable, noted
    origin                        where a source came from
    verify.verify_model           every byte of a finished folder against its manifest

Loading, of converted folders and of published ones as they are: `gptoss_mlx.weights`.
"""
