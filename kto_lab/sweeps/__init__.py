"""Many runs: a study, its cells, and how they are composed, estimated, launched and watched."""
