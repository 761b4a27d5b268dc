"""What is written and shown while trials run: records, TensorBoard, MLflow, progress."""
