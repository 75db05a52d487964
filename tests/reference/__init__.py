"""Independent references: numpy float64, written from the equations, slow on purpose.

They import nothing of gt_infer and share no code with what they judge. A test uses them as
`from ..reference import audio, network, splat`.
"""
