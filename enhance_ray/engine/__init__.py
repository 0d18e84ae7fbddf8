"""A recording of any length through a model in bounded memory, whoever runs the model.

    blocks -> Analysis -> pieces -> Batcher -> a model -> Synthesis -> blocks

`analysis` resamples to 44.1 kHz, divides by the gain curve and cuts segments; `synthesis` undoes this in
reverse order. What the second needs of the first travels in the `Piece` between them, so that the two
may live in different threads, and pieces of many recordings may share a batch. An identity for a
model gives the input back.

Departures from the reference (spec 5.1, 5.2): no search for a shift between segments, a gain curve in
place of one gain for each, context that is thrown away, every channel kept.
"""
