"""moto as the control plane, with what it lacks or takes too lightly put into its classes."""
