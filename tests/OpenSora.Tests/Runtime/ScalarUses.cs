using System.Text.RegularExpressions;
using Mono.Cecil;
using Mono.Cecil.Cil;
using TorchSharp;

namespace OpenSora.Tests.Runtime;

/// <summary>Finds the calls in compiled code that hand a temporary scalar of TorchSharp to native code (see TensorArithmetic).</summary>
internal sealed partial class ScalarUses
{
    /// <summary>The class that keeps its scalars alive and may make such calls.</summary>
    public const string SafeClass = "OpenSora.Runtime.TensorArithmetic";

    // The methods of TorchSharp that create a scalar, directly or through other methods.
    private readonly HashSet<string> _creators = new(StringComparer.Ordinal);

    // The modules and optimizers of TorchSharp that do so when they are called.
    private readonly HashSet<string> _modules = new(StringComparer.Ordinal);

    public ScalarUses()
    {
        using var torchSharp = ModuleDefinition.ReadModule(typeof(Scalar).Assembly.Location);
        var methods = torchSharp.GetTypes().SelectMany(type => type.Methods).Where(method => method.HasBody && !IsConversion(method)).ToArray();
        var callers = methods
            .SelectMany(method => Calls(method).SelectMany(call => Run(call.Method)).Select(called => (Called: Key(called), Caller: method)))
            .ToLookup(pair => pair.Called, pair => pair.Caller, StringComparer.Ordinal);
        var found = new Queue<MethodDefinition>(methods.Where(method => Calls(method).Any(call => IsConversion(call.Method) || IsNew(call.Method))));
        while (found.TryDequeue(out var method))
        {
            if (_creators.Add(Key(method)))
            {
                foreach (var caller in callers[Key(method)])
                {
                    found.Enqueue(caller);
                }
                if (method is { IsVirtual: true, Name: "forward" or "step" })
                {
                    _modules.Add(method.DeclaringType.FullName);
                }
            }
        }
    }

    /// <summary>Lists the unsafe calls of an assembly, each with its file, line and method.</summary>
    public IReadOnlyList<string> In(string assembly)
    {
        using var module = ModuleDefinition.ReadModule(assembly, new ReaderParameters { ReadSymbols = true });
        return
        [
            .. from type in module.GetTypes()
            where !type.FullName.StartsWith(SafeClass, StringComparison.Ordinal)
            from method in type.Methods
            where method.HasBody
            from call in Calls(method)
            where IsUnsafe(call.Method)
            let parameters = string.Join(", ", call.Method.Parameters.Select(parameter => parameter.ParameterType.Name))
            select $"{Place(method, call.Instruction)} calls {call.Method.Name}({parameters})",
        ];
    }

    /// <summary>Reports whether a method of TorchSharp creates a scalar and hands it to native code.</summary>
    public bool Creates(MethodReference method) => _creators.Contains(Key(method)) || _modules.Contains(method.ReturnType.FullName);

    /// <summary>Lists the methods that a method calls or refers to.</summary>
    public static IEnumerable<(Instruction Instruction, MethodReference Method)> Calls(MethodDefinition method) =>
        from instruction in method.Body.Instructions
        where instruction.Operand is MethodReference
        select (instruction, (MethodReference)instruction.Operand);

    /// <summary>Reports whether a method creates a scalar from a number.</summary>
    public static bool IsConversion(MethodReference method) =>
        method is { Name: "op_Implicit", DeclaringType.FullName: "TorchSharp.Scalar", ReturnType.FullName: "TorchSharp.Scalar" }
        || (method.DeclaringType.FullName is "TorchSharp.ScalarExtensionMethods" && method.Name.EndsWith("Scalar", StringComparison.Ordinal));

    private bool IsUnsafe(MethodReference method) =>
        method.DeclaringType.FullName.StartsWith("TorchSharp.", StringComparison.Ordinal)
        && !IsConversion(method)
        && (Creates(method) || IsNewModule(method) || method.Parameters.Any(parameter => ScalarType().IsMatch(parameter.ParameterType.FullName)));

    private bool IsNewModule(MethodReference method) => method.Name is ".ctor" && _modules.Contains(method.DeclaringType.FullName);

    private static bool IsNew(MethodReference method) => method is { Name: ".ctor", DeclaringType.FullName: "TorchSharp.Scalar" };

    // The methods that run when a method is called: itself, or the steps of an iterator.
    private static IEnumerable<MethodReference> Run(MethodReference method) =>
        method is MethodDefinition { Name: ".ctor", DeclaringType: var type }
        && type.Name.StartsWith('<')
        && type.Name.Contains(">d__", StringComparison.Ordinal)
            ? type.Methods
            : [method];

    private static string Key(MethodReference method)
    {
        var element = method.GetElementMethod();
        var parameters = string.Join(",", element.Parameters.Select(parameter => parameter.ParameterType.FullName));
        return $"{element.ReturnType.FullName} {element.DeclaringType.GetElementType().FullName}.{element.Name}({parameters})";
    }

    private static string Place(MethodDefinition method, Instruction instruction)
    {
        var point = method.DebugInformation.SequencePoints.LastOrDefault(point => point.Offset <= instruction.Offset && !point.IsHidden);
        return point is null ? method.FullName : $"{point.Document.Url}:{point.StartLine}";
    }

    [GeneratedRegex(@"TorchSharp\.Scalar\b", RegexOptions.ExplicitCapture, matchTimeoutMilliseconds: 1000)]
    private static partial Regex ScalarType();
}
