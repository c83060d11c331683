"""Who serves what when requests come at a rate."""
