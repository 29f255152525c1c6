using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Text;
using TorchSharp;
using static OpenSora.Torch.Native;
using static TorchSharp.torch;

namespace OpenSora.Torch;

/// <summary>One argument of an operator.</summary>
public readonly struct Argument
{
    internal readonly Tag Tag;
    internal readonly long I;
    internal readonly double D;
    internal readonly object? Reference;

    private Argument(Tag tag, long i = 0, double d = 0, object? reference = null) => (Tag, I, D, Reference) = (tag, i, d, reference);

    /// <summary>The operator's own default.</summary>
    public static Argument Default => new(Tag.Default);

    /// <summary>None.</summary>
    public static Argument None => new(Tag.None);

    /// <summary>A list of tensors of which any may be missing.</summary>
    public static Argument Optional(Tensor?[] tensors) => new(Tag.OptionalTensorList, reference: tensors);

    /// <summary>Tensors as an operator's list.</summary>
    public static Argument List(IReadOnlyList<Tensor> tensors) => new(Tag.TensorList, reference: tensors);

#pragma warning disable CS1591 // the conversions say what they are
    public static implicit operator Argument(Tensor? value) => value is null ? None : new(Tag.Tensor, reference: value);
    public static implicit operator Argument(long value) => new(Tag.Int, value);
    public static implicit operator Argument(long? value) => value is { } v ? new(Tag.Int, v) : None;
    public static implicit operator Argument(int value) => new(Tag.Int, value);
    public static implicit operator Argument(double value) => new(Tag.Double, d: value);
    public static implicit operator Argument(double? value) => value is { } v ? new(Tag.Double, d: v) : None;
    public static implicit operator Argument(bool value) => new(Tag.Bool, value ? 1 : 0);
    public static implicit operator Argument(long[]? value) => value is null ? None : new(Tag.IntList, reference: value);
    public static implicit operator Argument(double[]? value) => value is null ? None : new(Tag.DoubleList, reference: value);
    public static implicit operator Argument(bool[]? value) => value is null ? None : new(Tag.BoolList, reference: value);
    public static implicit operator Argument(Tensor[] value) => new(Tag.TensorList, reference: value);
    public static implicit operator Argument(string? value) => value is null ? None : new(Tag.String, reference: Encoding.UTF8.GetBytes(value));
    public static implicit operator Argument(ScalarType value) => new(Tag.Int, (long)value);
    public static implicit operator Argument(ScalarType? value) => value is { } v ? new(Tag.Int, (long)v) : None;
    public static implicit operator Argument(Generator? value) => value is null ? None : new(Tag.Generator, reference: value);
    public static implicit operator Argument(Device? value) => value is null ? None : new(Tag.Device, (long)value.type, value.index);
    public static implicit operator Argument(Scalar? value) => value is null ? None : value.ToArgument();
#pragma warning restore CS1591
}

/// <summary>Calls any ATen operator by its name and overload ("add.Tensor"), with autograd, through libtorch's dispatcher.</summary>
public static unsafe class Aten
{
    private const int MostResults = 8;
    private static readonly ConcurrentDictionary<string, IntPtr> operators = new(StringComparer.Ordinal);

    /// <summary>Whether this libtorch has an operator.</summary>
    public static bool Exists(string name) => Find(name) != IntPtr.Zero;

    /// <summary>Calls an operator that returns one tensor.</summary>
    public static Tensor Call(string name, params ReadOnlySpan<Argument> arguments)
    {
        Value result = default;
        var count = Invoke(name, arguments, &result, 1);
        return count == 1 && result.Tag == Tag.Tensor ? Tensor.Own((IntPtr)result.I) : throw Unexpected(name, "one tensor");
    }

    /// <summary>Calls an operator that changes <paramref name="self"/> and returns it.</summary>
    public static Tensor InPlace(string name, Tensor self, params ReadOnlySpan<Argument> arguments)
    {
        var all = new Argument[arguments.Length + 1];
        all[0] = self;
        arguments.CopyTo(all.AsSpan(1));
        Run(name, all);
        return self;
    }

    /// <summary>Calls an operator for its effect; what it returns is let go.</summary>
    public static void Run(string name, params ReadOnlySpan<Argument> arguments)
    {
        var results = stackalloc Value[MostResults];
        var count = Invoke(name, arguments, results, MostResults);
        for (var i = 0; i < count; i++) Drop(results[i]);
    }

    /// <summary>Calls an operator that returns two tensors.</summary>
    public static (Tensor, Tensor) Call2(string name, params ReadOnlySpan<Argument> arguments)
    {
        var results = stackalloc Value[2];
        if (Invoke(name, arguments, results, 2) != 2) throw Unexpected(name, "two tensors");
        return (Tensor.Own((IntPtr)results[0].I), Tensor.Own((IntPtr)results[1].I));
    }

    /// <summary>Calls an operator that returns three tensors.</summary>
    public static (Tensor, Tensor, Tensor) Call3(string name, params ReadOnlySpan<Argument> arguments)
    {
        var results = stackalloc Value[3];
        if (Invoke(name, arguments, results, 3) != 3) throw Unexpected(name, "three tensors");
        return (Tensor.Own((IntPtr)results[0].I), Tensor.Own((IntPtr)results[1].I), Tensor.Own((IntPtr)results[2].I));
    }

    /// <summary>Calls an operator that returns a list of tensors.</summary>
    public static Tensor[] CallList(string name, params ReadOnlySpan<Argument> arguments)
    {
        Value result = default;
        if (Invoke(name, arguments, &result, 1) != 1 || result.Tag != Tag.TensorList) throw Unexpected(name, "a list of tensors");
        var handles = (IntPtr*)result.I;
        var tensors = new Tensor[result.Length];
        for (var i = 0; i < tensors.Length; i++) tensors[i] = Tensor.Own(handles[i]);
        FreeHandles(handles);
        return tensors;
    }

    /// <summary>Calls an operator that returns a number or a truth value.</summary>
    public static Scalar CallScalar(string name, params ReadOnlySpan<Argument> arguments)
    {
        Value result = default;
        if (Invoke(name, arguments, &result, 1) != 1) throw Unexpected(name, "a number");
        return result.Tag switch
        {
            Tag.Int => new Scalar(result.I),
            Tag.Double => new Scalar(result.D),
            Tag.Bool => new Scalar(result.I != 0),
            _ => throw Unexpected(name, "a number"),
        };
    }

    private static InvalidOperationException Unexpected(string name, string expected) => new($"aten::{name} did not return {expected}.");

    private static void Drop(in Value value)
    {
        if (value.Tag == Tag.Tensor) Free((IntPtr)value.I);
        if (value.Tag != Tag.TensorList) return;
        var handles = (IntPtr*)value.I;
        for (var i = 0; i < value.Length; i++) Free(handles[i]);
        FreeHandles(handles);
    }

    /// <summary>The operator, or zero if this libtorch has none of that name; either is looked for once.</summary>
    private static IntPtr Find(string name) => operators.GetOrAdd(name, static key =>
    {
        var dot = key.IndexOf('.', StringComparison.Ordinal);
        return Operator("aten::" + (dot < 0 ? key : key[..dot]), dot < 0 ? "" : key[(dot + 1)..]);
    });

    private static int Invoke(string name, ReadOnlySpan<Argument> arguments, Value* results, int capacity)
    {
        var op = Find(name);
        if (op == IntPtr.Zero) throw new ExternalException($"This libtorch has no operator aten::{name}.");
        var values = stackalloc Value[arguments.Length];
        var bytes = 0;
        foreach (ref readonly var argument in arguments) bytes += ListBytes(argument);
        var lists = stackalloc byte[bytes <= 1024 ? bytes : 0];
        byte[]? heap = bytes > 1024 ? GC.AllocateUninitializedArray<byte>(bytes, pinned: true) : null;
        if (heap is not null) fixed (byte* p = heap) lists = p;
        for (var i = 0; i < arguments.Length; i++) values[i] = Pack(arguments[i], ref lists);
        var count = Native.Call(op, values, arguments.Length, results, capacity);
        foreach (ref readonly var argument in arguments) GC.KeepAlive(argument.Reference);
        GC.KeepAlive(heap);
        if (count < 0) throw Failure();
        return count;
    }

    private static int ListBytes(in Argument argument) => argument.Tag switch
    {
        Tag.IntList => 8 * ((long[])argument.Reference!).Length,
        Tag.DoubleList => 8 * ((double[])argument.Reference!).Length,
        Tag.TensorList or Tag.OptionalTensorList => 8 * ((IReadOnlyList<Tensor?>)argument.Reference!).Count,
        Tag.BoolList => (((bool[])argument.Reference!).Length + 7) & ~7,
        Tag.String => (((byte[])argument.Reference!).Length + 7) & ~7,
        _ => 0,
    };

    private static Value Pack(in Argument argument, ref byte* lists)
    {
        var value = new Value { Tag = argument.Tag, I = argument.I, D = argument.D };
        var size = ListBytes(argument);
        var room = new Span<byte>(lists, size);
        switch (argument.Tag)
        {
            case Tag.Tensor: value.I = ((Tensor)argument.Reference!).Handle; return value;
            case Tag.Generator: value.I = ((Generator)argument.Reference!).Handle; return value;
            case Tag.Device: value.Length = (int)argument.D; return value;
            case Tag.IntList: Copy((long[])argument.Reference!, room, ref value); break;
            case Tag.DoubleList: Copy((double[])argument.Reference!, room, ref value); break;
            case Tag.BoolList: Copy((bool[])argument.Reference!, room, ref value); break;
            case Tag.String: Copy((byte[])argument.Reference!, room, ref value); break;
            case Tag.TensorList or Tag.OptionalTensorList:
                var tensors = (IReadOnlyList<Tensor?>)argument.Reference!;
                value.Length = tensors.Count;
                for (var i = 0; i < tensors.Count; i++) ((IntPtr*)lists)[i] = tensors[i]?.Handle ?? IntPtr.Zero;
                break;
            default: return value;
        }

        value.I = (long)lists;
        lists += size;
        return value;
    }

    private static void Copy<T>(T[] list, Span<byte> room, ref Value value)
        where T : unmanaged
    {
        System.Runtime.InteropServices.MemoryMarshal.AsBytes<T>(list).CopyTo(room);
        value.Length = list.Length;
    }
}
