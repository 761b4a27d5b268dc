"""Write and show what happens while trials run: records, TensorBoard, MLflow, progress."""
