"""LaMP tasks, one declaration in each file."""
