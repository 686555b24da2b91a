"""What two or more questions share: one classifier on labels of which some are wrong, tasks in sequence, agents."""
