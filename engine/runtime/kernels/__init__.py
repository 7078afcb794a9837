"""What the models compute besides matrix products: native CPU kernels, and portable ones in torch."""
