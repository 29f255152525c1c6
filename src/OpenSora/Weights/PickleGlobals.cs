using System.Collections.Frozen;

namespace OpenSora.Weights;

/// <summary>Kinds of global names in a pickle.</summary>
internal enum GlobalKind
{
    /// <summary>A dictionary.</summary>
    Dictionary,

    /// <summary>A tensor that views a storage: <c>(storage, offset, sizes, strides, ...)</c>.</summary>
    Tensor,

    /// <summary>A tensor that views a storage of bytes, with the element type as the seventh argument.</summary>
    TypedTensor,

    /// <summary>A parameter, which wraps the tensor passed as the first argument.</summary>
    Parameter,

    /// <summary>A call to another global: <c>(function, class, arguments, state)</c>.</summary>
    Call,

    /// <summary>The class of a tensor, passed to <see cref="Call"/>.</summary>
    TensorClass,

    /// <summary>An element type: the class of a typed storage, or a dtype.</summary>
    ElementType,

    /// <summary>The class of a storage of bytes.</summary>
    Bytes,

    /// <summary>An object other than a tensor, which is skipped: neither created nor called.</summary>
    Ignored,

    /// <summary>A name that is not in the list. Objects of it are skipped and reported, unless they hold a tensor.</summary>
    Unknown,
}

/// <summary>A known global name in a pickle.</summary>
/// <param name="Name">The module and the name, separated by a dot.</param>
/// <param name="Kind">The kind, which determines how the name is processed.</param>
/// <param name="Type">The element type by its safetensors name, for the kind <see cref="GlobalKind.ElementType"/>.</param>
internal sealed record PickleGlobal(string Name, GlobalKind Kind, string? Type = null)
{
    /// <summary>All known globals. None of them is ever executed: the reader knows the results of these calls.</summary>
    public static FrozenDictionary<string, PickleGlobal>.AlternateLookup<ReadOnlySpan<char>> ByName { get; } =
        All().ToFrozenDictionary(global => global.Name, StringComparer.Ordinal).GetAlternateLookup<ReadOnlySpan<char>>();

    // Modules and functions that run commands or code when a pickle is loaded in Python. Nothing is executed here, but the file is an attack.
    private static readonly FrozenSet<string> Attacks = FrozenSet.ToFrozenSet(
        [
            "os",
            "posix",
            "nt",
            "sys",
            "subprocess",
            "commands",
            "shutil",
            "socket",
            "pty",
            "ctypes",
            "importlib",
            "runpy",
            "webbrowser",
            "code",
            "marshal",
            "pickle",
            "builtins.eval",
            "builtins.exec",
            "builtins.execfile",
            "builtins.compile",
            "builtins.open",
            "builtins.__import__",
            "builtins.apply",
            "torch.load",
            "torch.hub",
        ],
        StringComparer.Ordinal
    );

    /// <summary>Determines whether a name runs commands or code, or opens files, when a pickle that calls it is loaded in Python.</summary>
    public static bool IsAttack(string name)
    {
        name = name.StartsWith("__builtin__.", StringComparison.Ordinal) ? $"builtins.{name["__builtin__.".Length..]}" : name;
        for (var end = name.IndexOf('.', StringComparison.Ordinal); end >= 0; end = name.IndexOf('.', end + 1))
        {
            if (Attacks.Contains(name[..end]))
            {
                return true;
            }
        }

        return Attacks.Contains(name);
    }

    private static IEnumerable<PickleGlobal> All()
    {
        (GlobalKind, string[])[] names =
        [
            (
                GlobalKind.Dictionary,
                [
                    "collections.OrderedDict",
                    "collections.defaultdict",
                    "builtins.dict",
                    "__builtin__.dict",
                    "torch.nn.modules.container.ParameterDict",
                ]
            ),
            (GlobalKind.Tensor, ["torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"]),
            (GlobalKind.TypedTensor, ["torch._utils._rebuild_tensor_v3"]),
            (GlobalKind.Parameter, ["torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"]),
            (GlobalKind.Call, ["torch._tensor._rebuild_from_type_v2"]),
            (GlobalKind.TensorClass, ["torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"]),
            (GlobalKind.Bytes, ["torch.storage.UntypedStorage", "torch.storage._UntypedStorage", "torch.UntypedStorage"]),
            // Objects that training scripts save with the weights: arguments, best scores, shapes, devices.
            (
                GlobalKind.Ignored,
                [
                    "argparse.Namespace",
                    "torch.Size",
                    "torch.device",
                    "_codecs.encode",
                    "copyreg._reconstructor",
                    "copy_reg._reconstructor",
                    "builtins.object",
                    "__builtin__.object",
                    "builtins.set",
                    "__builtin__.set",
                    "builtins.list",
                    "__builtin__.list",
                    "builtins.int",
                    "__builtin__.int",
                    "__builtin__.long",
                    "builtins.float",
                    "__builtin__.float",
                    "builtins.bool",
                    "__builtin__.bool",
                    "builtins.str",
                    "__builtin__.unicode",
                    "builtins.bytearray",
                    "__builtin__.bytearray",
                    "collections.deque",
                    "collections.Counter",
                    "pathlib.PosixPath",
                    "pathlib.Path",
                    "pathlib.PurePosixPath",
                    "numpy.dtype",
                    "numpy.ndarray",
                    "numpy.core.multiarray.scalar",
                    "numpy.core.multiarray._reconstruct",
                    "numpy._core.multiarray.scalar",
                    "numpy._core.multiarray._reconstruct",
                    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
                    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
                ]
            ),
        ];
        foreach (var (kind, all) in names)
        {
            foreach (var name in all)
            {
                yield return new PickleGlobal(name, kind);
            }
        }

        (string Type, string[] Names)[] types =
        [
            ("F32", ["FloatStorage", "float32", "float"]),
            ("F64", ["DoubleStorage", "float64", "double"]),
            ("F16", ["HalfStorage", "float16", "half"]),
            ("BF16", ["BFloat16Storage", "bfloat16"]),
            ("I64", ["LongStorage", "int64", "long"]),
            ("I32", ["IntStorage", "int32", "int"]),
            ("I16", ["ShortStorage", "int16", "short"]),
            ("I8", ["CharStorage", "int8"]),
            ("U8", ["ByteStorage", "uint8"]),
            ("BOOL", ["BoolStorage", "bool"]),
            ("U16", ["uint16"]),
            ("U32", ["uint32"]),
            ("U64", ["uint64"]),
            ("F8_E4M3", ["float8_e4m3fn"]),
            ("F8_E5M2", ["float8_e5m2"]),
            ("F8_E8M0", ["float8_e8m0fnu"]),
            ("F8_E4M3FNUZ", ["float8_e4m3fnuz"]),
            ("F8_E5M2FNUZ", ["float8_e5m2fnuz"]),
            ("C32", ["complex32", "chalf"]),
            ("C64", ["ComplexFloatStorage", "complex64", "cfloat"]),
            ("C128", ["ComplexDoubleStorage", "complex128", "cdouble"]),
        ];
        foreach (var (type, all) in types)
        {
            foreach (var name in all)
            {
                yield return new PickleGlobal($"torch.{name}", GlobalKind.ElementType, type);
            }
        }
    }
}
