using OpenSora.Torch;

namespace TorchSharp
{
    public static partial class torch
    {
        public static partial class nn
        {
            public static Modules.Parameter Parameter(Tensor data, bool requires_grad = true) => new(data, requires_grad);

            public static Modules.ParameterList ParameterList(params Modules.Parameter[] parameters) => new(parameters);
        }
    }
}

namespace TorchSharp.Modules
{
    using System.Collections;
    using static torch;

    /// <summary>A leaf tensor that a module owns and an optimizer changes.</summary>
    public class Parameter : Tensor
    {
        /// <summary>Takes over a tensor's values without copying them; <paramref name="data"/> itself is disposed of.</summary>
        public Parameter(Tensor data, bool requires_grad = true)
            : base(Take(data))
        {
            if (requires_grad)
                this.requires_grad = true;
        }

        private static IntPtr Take(Tensor data)
        {
            using (data)
            {
                using var leaf = data.detach();
                return leaf.Share();
            }
        }
    }

    /// <summary>Parameters under the names "0", "1" and so on.</summary>
    public class ParameterList : nn.Module, IList<Parameter>
    {
        private readonly List<Parameter> _list = [];

        public ParameterList(params Parameter[] parameters)
            : base(nameof(ParameterList)) => extend(parameters);

        public int Count => _list.Count;

        public bool IsReadOnly => false;

        public Parameter this[int index]
        {
            get => _list[index];
            set
            {
                _list[index] = value;
                Renumber();
            }
        }

        public void append(params Parameter[] parameters) => extend(parameters);

        public void extend(IEnumerable<Parameter> parameters)
        {
            _list.AddRange(parameters);
            Renumber();
        }

        public void Add(Parameter item)
        {
            _list.Add(item);
            Renumber();
        }

        public void Insert(int index, Parameter item)
        {
            _list.Insert(index, item);
            Renumber();
        }

        public bool Remove(Parameter item)
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

        public bool Contains(Parameter item) => _list.Contains(item);

        public int IndexOf(Parameter item) => _list.IndexOf(item);

        public void CopyTo(Parameter[] array, int arrayIndex) => _list.CopyTo(array, arrayIndex);

        public IEnumerator<Parameter> GetEnumerator() => _list.GetEnumerator();

        IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

        private void Renumber()
        {
            _internal_params.Clear();
            for (var i = 0; i < _list.Count; i++)
                register_parameter(FormattableString.Invariant($"{i}"), _list[i]);
        }
    }
}
