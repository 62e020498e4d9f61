"""From a spec to a trained network: specs and their keys, the store, what a network looks at, its
objective.
"""
