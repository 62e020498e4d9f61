"""Where pictures come from: CIFAR-10 and CINIC-10, class folders, the sample, corruptions."""
