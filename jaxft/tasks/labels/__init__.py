"""Labels of examples: their types, metrics, reports, answers and settings, which several tasks share."""
