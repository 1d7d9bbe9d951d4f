"""Links from task instances to the Quilt catalog."""
