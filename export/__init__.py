"""From a trained model to what others load: SavedModels and what serves them."""
