"""The proof: a pruned model must equal the masked original in onnxruntime."""
