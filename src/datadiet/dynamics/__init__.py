"""How training moves: kernels of gradients and their velocity, linear connectivity, the coherence of gradients."""
