"""The equations, as plain functions on tensors: no files, no arguments objects, no globals."""
