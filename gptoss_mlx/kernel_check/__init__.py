"""Which kernels are right and faster on this machine: tried on its own GPU, timed against MLX's stock path, kept.

trials       what is tried for each kernel: operations on random inputs of the model's shapes
fit          whether a kernel serves the model at all
timing       how long a kernel takes, beside the stock path
verdict      right? faster? and the reason
run          the order of the trials, and their time budget
combination  what verdicts hold for: chip, system, MLX, kernel sources, shape of model
store        the file that keeps the verdicts of one combination
choice       what is chosen when a model is loaded
shapes       one decoder layer of a published model's shape, for a machine without the model
"""
