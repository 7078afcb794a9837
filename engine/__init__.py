"""The inference engine: one process per loaded model.

Its public face is `engine.params`, `engine.messages` and `engine.client`, none of which imports torch.
`engine.runtime` is what runs inside the engine process.
"""
