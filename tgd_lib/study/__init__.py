"""What is asked: methods, the specs of a run, questions to trained networks, cost, published
networks.
"""
