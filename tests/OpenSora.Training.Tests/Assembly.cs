// Live tensors are counted for the whole process, and libtorch's threads are few: one test after another.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
