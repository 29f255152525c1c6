namespace TorchSharp
{
    using Modules;

    public static partial class torch
    {
        public static partial class nn
        {
            public static ModuleList<Module> ModuleList(params Module[] modules) => new(modules);

            public static ModuleList<T> ModuleList<T>(params T[] modules) where T : Module => new(modules);

            public static Sequential Sequential() => new(Array.Empty<Module<Tensor, Tensor>>());

            public static Sequential Sequential(params Module<Tensor, Tensor>[] modules) => new(modules);

            public static Sequential Sequential(IEnumerable<Module<Tensor, Tensor>> modules) => new(modules.ToArray());

            public static Sequential Sequential(params (string name, Module<Tensor, Tensor> submodule)[] modules) => new(modules);

            public static Sequential Sequential(IEnumerable<(string name, Module<Tensor, Tensor> submodule)> modules) => new(modules.ToArray());
        }
    }
}

namespace TorchSharp.Modules
{
    using System.Collections;
    using static torch;

    /// <summary>Modules under the names "0", "1" and so on.</summary>
    public class ModuleList<T> : nn.Module, IList<T>
        where T : nn.Module
    {
        private readonly List<T> _list = [];

        public ModuleList(params T[] modules)
            : base("ModuleList") => extend(modules);

        public int Count => _list.Count;

        public bool IsReadOnly => false;

        public T this[int index]
        {
            get => _list[index];
            set
            {
                _list[index] = value;
                Renumber();
            }
        }

        public void append(params T[] parameters) => extend(parameters);

        public void extend(IEnumerable<T> modules)
        {
            _list.AddRange(modules);
            Renumber();
        }

        public void Add(T item)
        {
            _list.Add(item);
            Renumber();
        }

        public void Insert(int index, T item)
        {
            _list.Insert(index, item);
            Renumber();
        }

        public bool Remove(T item)
        {
            var removed = _list.Remove(item);
            Renumber();
            return removed;
        }

        public void RemoveAt(int index)
        {
            _list.RemoveAt(index);
            Renumber();
        }

        public void Clear()
        {
            _list.Clear();
            Renumber();
        }

        public bool Contains(T item) => _list.Contains(item);

        public int IndexOf(T item) => _list.IndexOf(item);

        public void CopyTo(T[] array, int arrayIndex) => _list.CopyTo(array, arrayIndex);

        public IEnumerator<T> GetEnumerator() => _list.GetEnumerator();

        IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

        private void Renumber()
        {
            ClearModules();
            for (var i = 0; i < _list.Count; i++)
                register_module(FormattableString.Invariant($"{i}"), _list[i]);
        }
    }

    /// <summary>Modules called one after the other, under the names "0", "1" and so on, or names of their own.</summary>
    public class Sequential : nn.Module<Tensor, Tensor>
    {
        private readonly List<(string Name, nn.Module<Tensor, Tensor> Module)> _modules = [];

        protected internal Sequential(params nn.Module<Tensor, Tensor>[] modules)
            : base(nameof(Sequential))
        {
            foreach (var module in modules)
                append(module);
        }

        protected internal Sequential(params (string name, nn.Module<Tensor, Tensor> submodule)[] modules)
            : base(nameof(Sequential))
        {
            foreach (var (key, module) in modules)
                append(key, module);
        }

        public int Count => _modules.Count;

        [System.Runtime.CompilerServices.IndexerName("SequentialItems")]
        public nn.IModule<Tensor, Tensor> this[int index] => _modules[index].Module;

        [System.Runtime.CompilerServices.IndexerName("SequentialItems")]
        public Sequential this[Range index]
        {
            get
            {
                var (start, count) = index.GetOffsetAndLength(Count);
                return new Sequential(_modules.GetRange(start, count).Select(entry => (entry.Name, entry.Module)).ToArray());
            }
        }

        public Sequential append(nn.IModule<Tensor, Tensor> module) => append(FormattableString.Invariant($"{Count}"), module);

        public Sequential append(string name, nn.IModule<Tensor, Tensor> module)
        {
            var submodule = module as nn.Module<Tensor, Tensor> ?? throw new ArgumentException("A sequence holds modules only.", nameof(module));
            register_module(name, submodule);
            _modules.Add((name, submodule));
            return this;
        }

        public override Tensor forward(Tensor tensor)
        {
            var result = tensor.alias();
            foreach (var (_, module) in _modules)
            {
                var input = result;
                result = module.call(input);
                if (!ReferenceEquals(result, input)) input.Dispose();
            }

            return result;
        }
    }
}
