"""From published checkpoints to ready-to-run folders in our own format, and checking them. FORMAT.md describes it.

    download.download             a model from the hub, from beginning to end
    conversion.convert_model      a checkpoint that is here, from beginning to end
    destination                   the folder that is being filled: lock, resuming, the rename that makes it whole
    plan                          which tensors go into which file, to the byte
    pieces                        their bytes, a few megabytes at a time, quantised where that is asked for
    writer                        one file: written, hashed, made durable, noted
    request, there, mend          what is asked for; what is there already; going on from a model that is damaged
    hub, hub_cache                what the hub, or its cache here, has, and with which checksums; putting files there
    fetch, part, places           bytes in ranges over several connections; a file that is there in part, and where
    remote_shards, homes, steps   headers before the files; where each tensor goes; order, and fullness of the disk
    download_plan, fit            what a download will do, to the byte; whether disk and memory have room
    landing, finishing            carries the plan out: shards land; what lands becomes files of the result
    speed                         bytes a second, and what is left of the time
    origin                        where a source came from
    verify.verify_model           every byte of a finished folder against its manifest

Loading, of converted folders and of published ones as they are: `gptoss_mlx.weights`.
"""
