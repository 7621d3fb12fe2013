"""The routed GRU as layers of torch.nn: RoutedGRU over sequences, RoutedGRUCell for a step."""
