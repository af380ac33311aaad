import torch
class TORCH:
    real=staticmethod(lambda z: z.real if z.is_complex() else z)
    imag=staticmethod(lambda z: z.imag if z.is_complex() else torch.zeros_like(z))
