"""What tests/benchmarks/time_to_accuracy.py is made of: data, nets, arms, the training loop, the reports."""
