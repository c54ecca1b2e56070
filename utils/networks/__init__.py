"""Networks: loading, arithmetic, kinds of layer, recording a layer, splitting its channels, feature visualization."""
