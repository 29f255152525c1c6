using System.Globalization;
using System.Runtime.InteropServices;
using OpenSora.Torch;
using TorchSharp.Utils;

namespace TorchSharp;

public static partial class torch
{
    /// <summary>A tensor of libtorch's. Owns one reference to it, let go by <see cref="Dispose()"/> or, at the latest, by the finalizer.</summary>
    public partial class Tensor : IDisposable
    {
        private static long totalCount;
        private static long peakCount;
        private static long finalizedCount;
        private IntPtr handle;

        private protected Tensor(IntPtr handle)
        {
            this.handle = handle;
            if (handle == IntPtr.Zero) return; // an operator's undefined result
            var count = Interlocked.Increment(ref totalCount);
            if (count > Interlocked.Read(ref peakCount)) Interlocked.Exchange(ref peakCount, count);
            DisposeScope.Current?.Attach(this);
        }

        ~Tensor() => Dispose(false);

        /// <summary>Tensors that exist now.</summary>
        public static long TotalCount => Interlocked.Read(ref totalCount);

        /// <summary>The most tensors that existed at once.</summary>
        public static long PeakCount => Interlocked.Read(ref peakCount);

        public IntPtr Handle => handle != IntPtr.Zero ? handle
            : throw new ObjectDisposedException(nameof(Tensor), "The tensor was disposed of, or its dispose scope ended.");

        public bool IsInvalid => handle == IntPtr.Zero;

        public long Dimensions => dim();

        public long NumberOfElements => numel();

        public long ElementSize => element_size();

        public string? name { get; set; }

        public ScalarType dtype => (ScalarType)Alive(Native.Dtype(Handle));

        public Device device => new(device_type, device_index);

        public DeviceType device_type
        {
            get { unsafe { int index; return (DeviceType)Alive(Native.Device(Handle, &index)); } }
        }

        public int device_index
        {
            get { unsafe { int index; _ = Alive(Native.Device(Handle, &index)); return index; } }
        }

        public long ndim => dim();

        public long[] shape => size();

        public bool is_cuda => device_type == DeviceType.CUDA;

        public bool is_meta => device_type == DeviceType.META;

        public bool requires_grad
        {
            get => Alive(Native.RequiresGrad(Handle)) != 0;
            set => Native.Check(Alive(Native.SetRequiresGrad(Handle, value ? 1 : 0)));
        }

        public bool is_leaf => Alive(Native.IsLeaf(Handle)) != 0;

        public Tensor? grad
        {
            get
            {
                var result = Alive(Native.Grad(Handle));
                return result == IntPtr.Zero ? null : Own(result);
            }

            set
            {
                Native.Check(Alive(Native.SetGrad(Handle, value?.Handle ?? IntPtr.Zero)));
                GC.KeepAlive(value);
            }
        }

        /// <summary>The elements as they lie in memory; a contiguous tensor on the CPU only.</summary>
        public unsafe Span<byte> bytes
        {
            get => new(Memory(), checked((int)(numel() * element_size())));
            set
            {
                if (value.Length != numel() * element_size())
                    throw new ArgumentException($"The tensor takes {numel() * element_size()} bytes, not {value.Length}.", nameof(value));
                value.CopyTo(bytes);
            }
        }

        internal static long FinalizedCount => Interlocked.Read(ref finalizedCount);

        internal DisposeScope? Scope { get; set; }

        /// <summary>Takes over a handle that libtorch returned.</summary>
        internal static Tensor Own(IntPtr handle) => new(handle);

        public long dim() => Alive(Native.Dim(Handle));

        public long numel() => Alive(Native.Numel(Handle));

        public long element_size() => dtype switch
        {
            ScalarType.Byte or ScalarType.Int8 or ScalarType.Bool or ScalarType.QInt8 or ScalarType.QUInt8 => 1,
            ScalarType.Int16 or ScalarType.Float16 or ScalarType.BFloat16 => 2,
            ScalarType.Int32 or ScalarType.Float32 or ScalarType.QInt32 => 4,
            ScalarType.ComplexFloat64 => 16,
            _ => 8,
        };

        public long[] size()
        {
            var sizes = new long[dim()];
            for (var i = 0; i < sizes.Length; i++) sizes[i] = Alive(Native.Size(Handle, i));
            return sizes;
        }

        public long size(int dim) => Alive(Native.Size(Handle, Wrap(dim)));

        public long[] stride()
        {
            var strides = new long[dim()];
            for (var i = 0; i < strides.Length; i++) strides[i] = Alive(Native.Stride(Handle, i));
            return strides;
        }

        public long stride(int dim) => Alive(Native.Stride(Handle, Wrap(dim)));

        public long storage_offset() => Alive(Native.StorageOffset(Handle));

        public bool is_contiguous() => Alive(Native.IsContiguous(Handle)) != 0;

        public bool is_cpu() => device_type == DeviceType.CPU;

        public bool is_floating_point() => dtype is ScalarType.Float16 or ScalarType.Float32 or ScalarType.Float64 or ScalarType.BFloat16;

        public bool is_integral() => dtype is ScalarType.Byte or ScalarType.Int8 or ScalarType.Int16 or ScalarType.Int32 or ScalarType.Int64 or ScalarType.Bool;

        public bool is_complex() => dtype is ScalarType.ComplexFloat32 or ScalarType.ComplexFloat64;

        public Tensor requires_grad_(bool requires_grad = true)
        {
            this.requires_grad = requires_grad;
            return this;
        }

        public Tensor with_requires_grad(bool requires_grad = true) => requires_grad_(requires_grad);

        public void retain_grad() => Native.Check(Alive(Native.RetainGrad(Handle)));

        public Scalar ToScalar() => numel() == 1 ? Aten.CallScalar("_local_scalar_dense", this)
            : throw new ArgumentException($"A number needs a tensor of one element; this one has shape [{string.Join(", ", shape)}].");

        /// <summary>The value of a tensor of one element; <typeparamref name="T"/> must be the tensor's own type. Casts, such as <c>(float)tensor</c>, convert.</summary>
        public T item<T>()
            where T : unmanaged
        {
            if (numel() != 1) throw new ArgumentException($"item() needs a tensor of one element; this one has shape [{string.Join(", ", shape)}].");
            if (is_cpu()) return data<T>()[0];
            using var here = cpu();
            return here.data<T>()[0];
        }

        public TensorAccessor<T> data<T>()
            where T : unmanaged
            => new(this);

        public Tensor DetachFromDisposeScope()
        {
            Scope?.Detach(this);
            return this;
        }

        public Tensor MoveToOuterDisposeScope()
        {
            Scope?.MoveToOuter(this);
            return this;
        }

        public Tensor MoveToOtherDisposeScope(DisposeScope other)
        {
            if (Scope is { } scope) scope.MoveToOther(other, this);
            else other.Attach(this);
            return this;
        }

        public void Dispose()
        {
            Dispose(true);
            GC.SuppressFinalize(this);
        }

        protected virtual void Dispose(bool disposing)
        {
            var owned = Interlocked.Exchange(ref handle, IntPtr.Zero);
            if (owned == IntPtr.Zero) return;
            Interlocked.Decrement(ref totalCount);
            if (disposing) Scope?.MarkAsDisposed(this);
            else Interlocked.Increment(ref finalizedCount);
            Scope = null;
            Native.Free(owned);
        }

        public override bool Equals(object? obj) => ReferenceEquals(this, obj);

        public override int GetHashCode() => System.Runtime.CompilerServices.RuntimeHelpers.GetHashCode(this);

        public override string ToString() => IsInvalid ? "disposed tensor"
            : string.Create(CultureInfo.InvariantCulture, $"[{string.Join('x', shape)}], type = {dtype}, device = {device}") + Values();

        /// <summary>The elements, for as long as the caller keeps the tensor alive.</summary>
        internal unsafe void* Memory()
        {
            if (device_type != DeviceType.CPU) throw new InvalidOperationException($"The elements of a tensor on {device} cannot be read directly; call cpu() first.");
            if (!is_contiguous()) throw new InvalidOperationException("The tensor is not contiguous; call contiguous() first.");
            if (numel() == 0) return null;
            var data = Native.Data(Handle);
            return data != null ? data : throw Native.Failure();
        }

        /// <summary>Replaces what the tensor holds, keeping its identity (a parameter's, for optimizers).</summary>
        internal void SetData(Tensor other)
        {
            Native.Check(Alive(Native.SetData(Handle, other.Handle)));
            GC.KeepAlive(other);
        }

        /// <summary>A second reference to what this tensor refers to.</summary>
        internal IntPtr Share() => Alive(Native.Share(Handle));

        /// <summary>Keeps the finalizer away until <paramref name="result"/>, which libtorch computed from the handle, is there.</summary>
        private T Alive<T>(T result)
        {
            GC.KeepAlive(this);
            return result;
        }

        private int Wrap(int dim)
        {
            var n = (int)this.dim();
            return dim >= -n && dim < n ? dim < 0 ? dim + n : dim
                : throw new ArgumentOutOfRangeException(nameof(dim), dim, $"The tensor has {n} dimensions.");
        }

        private string Values()
        {
            if (device_type != DeviceType.CPU || numel() is 0 or > 8) return "";
            using var scope = NewDisposeScope();
            using (no_grad())
            {
                var values = flatten().to(ScalarType.Float64).contiguous();
                return ", value = " + string.Join(", ", values.data<double>().ToArray().Select(v => v.ToString("G5", CultureInfo.InvariantCulture)));
            }
        }
    }
}
