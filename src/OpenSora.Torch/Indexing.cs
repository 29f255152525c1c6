using OpenSora.Torch;

namespace TorchSharp;

public static partial class torch
{
    /// <summary>One place of an index: a number, a slice, all, None, an ellipsis or a tensor.</summary>
    public readonly struct TensorIndex
    {
        internal enum Form { Null, None, Ellipsis, Single, Slice, Bool, Tensor }

        internal Form Kind { get; private init; }

        internal long? Start { get; private init; }

        internal long? Stop { get; private init; }

        internal long? Step { get; private init; }

        internal torch.Tensor? Index { get; private init; }

        public static readonly TensorIndex Null = new() { Kind = Form.Null };

        public static readonly TensorIndex None = new() { Kind = Form.None };

        public static readonly TensorIndex Ellipsis = new() { Kind = Form.Ellipsis };

        public static readonly TensorIndex Colon = new() { Kind = Form.Slice };

        public static TensorIndex Slice(long? start = null, long? stop = null, long? step = null) => new() { Kind = Form.Slice, Start = start, Stop = stop, Step = step };

        public static TensorIndex Slice(Range range) => new()
        {
            Kind = Form.Slice,
            Start = range.Start.IsFromEnd ? -range.Start.Value : range.Start.Value,
            Stop = !range.End.IsFromEnd ? range.End.Value : range.End.Value == 0 ? null : -range.End.Value,
        };

        public static TensorIndex Single(long? index) => index is { } i ? new() { Kind = Form.Single, Start = i } : Null;

        public static TensorIndex Bool(bool value) => new() { Kind = Form.Bool, Start = value ? 1 : 0 };

        public static TensorIndex Tensor(torch.Tensor tensor) => new() { Kind = Form.Tensor, Index = tensor };

        public static implicit operator TensorIndex(long value) => Single(value);

        public static implicit operator TensorIndex(Range range) => Slice(range);

        public static implicit operator TensorIndex(Index index) => Single(index.IsFromEnd ? -index.Value : index.Value);
    }

    public partial class Tensor
    {
        [System.Runtime.CompilerServices.IndexerName("TensorItems")]
        public Tensor this[params TensorIndex[] indices]
        {
            get => index(indices);
            set => Assign(indices, value);
        }

        [System.Runtime.CompilerServices.IndexerName("TensorItems")]
        public Tensor this[params Tensor[] indices]
        {
            get => index(indices);
            set
            {
                using var converted = value.to(dtype, device);
                Aten.Run("index_put_", this, Argument.Optional(indices), converted, false);
            }
        }

        [System.Runtime.CompilerServices.IndexerName("TensorItems")]
        public Tensor this[params long[] indices]
        {
            get => index(Places(indices));
            set => Assign(Places(indices), value);
        }

        [System.Runtime.CompilerServices.IndexerName("TensorItems")]
        public Tensor this[long i1]
        {
            get => select(0, i1);
            set => Assign([i1], value);
        }

        [System.Runtime.CompilerServices.IndexerName("TensorItems")]
        public Tensor this[long i1, long i2]
        {
            get => index(Places(i1, i2));
            set => Assign([i1, i2], value);
        }

        [System.Runtime.CompilerServices.IndexerName("TensorItems")]
        public Tensor this[long i1, long i2, long i3]
        {
            get => index(Places(i1, i2, i3));
            set => Assign([i1, i2, i3], value);
        }

        public Tensor index(params Tensor[] indices) => Aten.Call("index.Tensor", this, Argument.Optional(indices));

        public Tensor index(params TensorIndex[] indices)
        {
            var (view, tensors) = View(indices);
            if (tensors is null) return view.Dispensable(this);
            var result = Aten.Call("index.Tensor", view.Tensor, Argument.Optional(tensors));
            view.Release(this);
            return result;
        }

        public Tensor index_put_(Tensor value, params TensorIndex[] indices)
        {
            Assign(indices, value);
            return this;
        }

        private static TensorIndex[] Places(params long[] indices) => [.. indices.Select(i => TensorIndex.Single(i))];

        private void Assign(TensorIndex[] indices, Tensor value)
        {
            var (view, tensors) = View(indices);
            if (tensors is null)
            {
                view.Tensor.copy_(value);
            }
            else
            {
                using var converted = value.to(dtype, device, copy: true);
                Aten.Run("index_put_", view.Tensor, Argument.Optional(tensors), converted, false);
            }

            view.Release(this);
        }

        /// <summary>Applies all but tensors as views; the tensors are left for one gather, at their place in the view.</summary>
        private (Owned View, Tensor?[]? Tensors) View(TensorIndex[] indices)
        {
            var taken = indices.Sum(i => i.Kind is TensorIndex.Form.Single or TensorIndex.Form.Slice or TensorIndex.Form.Null ? 1
                : i.Kind == TensorIndex.Form.Tensor ? i.Index!.dtype == ScalarType.Bool ? i.Index.dim() : 1 : 0);
            if (taken > dim()) throw new IndexOutOfRangeException($"{taken} indices for a tensor of {dim()} dimensions.");
            var view = new Owned(this);
            Tensor?[]? tensors = null;
            long at = 0, folded = 0; // a boolean tensor of n dimensions takes n of the view's but one place of the gather's list
            foreach (var index in indices)
            {
                switch (index.Kind)
                {
                    case TensorIndex.Form.Ellipsis: at += dim() - taken; break;
                    case TensorIndex.Form.Null: at++; break;
                    case TensorIndex.Form.None: view.Replace(view.Tensor.unsqueeze(at++), this); break;
                    case TensorIndex.Form.Bool: throw new NotSupportedException("A truth value as an index; use a boolean tensor.");
                    case TensorIndex.Form.Single: view.Replace(view.Tensor.select(at, index.Start!.Value), this); break;
                    case TensorIndex.Form.Slice:
                        if (index.Start is not null || index.Stop is not null || index.Step is not null)
                            view.Replace(Aten.Call("slice.Tensor", view.Tensor, at, index.Start, index.Stop, index.Step ?? 1), this);
                        at++;
                        break;
                    default:
                        tensors ??= [];
                        Array.Resize(ref tensors, (int)(at - folded) + 1);
                        tensors[at - folded] = index.Index;
                        var covered = index.Index!.dtype == ScalarType.Bool ? index.Index.dim() : 1;
                        at += covered;
                        folded += covered - 1;
                        break;
                }
            }

            return (view, tensors);
        }

        /// <summary>The view at hand; intermediate ones are disposed of, the tensor it began with never.</summary>
        private sealed class Owned(Tensor tensor)
        {
            public Tensor Tensor { get; private set; } = tensor;

            public void Replace(Tensor next, Tensor root)
            {
                Release(root);
                Tensor = next;
            }

            public void Release(Tensor root)
            {
                if (!ReferenceEquals(Tensor, root)) Tensor.Dispose();
            }

            public Tensor Dispensable(Tensor root) => ReferenceEquals(Tensor, root) ? root.alias() : Tensor;
        }
    }
}
