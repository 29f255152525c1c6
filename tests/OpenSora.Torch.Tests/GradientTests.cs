using System.Reflection;
using System.Runtime.InteropServices;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.TorchTests;

/// <summary>Gradients of all operators against central differences in float64.</summary>
public sealed class GradientTests
{
    private const double Step = 1e-6;
    private const double Tolerance = 1e-7;

    /// <summary>Operators whose result has no gradient, and what is no operator.</summary>
    private static readonly HashSet<string> WithoutGradient = new(StringComparer.Ordinal)
    {
        // answers about values
        "all", "any", "argmax", "argmin", "argsort", "bincount", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "count_nonzero", "eq", "floor_divide",
        "ge", "gt", "isclose", "isfinite", "isinf", "isnan", "le", "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "ne", "nonzero", "one_hot",
        "op_Equality", "op_Inequality", "op_LessThan", "op_LessThanOrEqual", "op_GreaterThan", "op_GreaterThanOrEqual", "op_BitwiseAnd", "op_BitwiseOr",
        "op_ExclusiveOr", "op_OnesComplement",

        // new values
        "bernoulli", "bernoulli_", "empty_like", "exponential_", "full_like", "multinomial", "new_empty", "new_full", "new_ones", "new_zeros", "normal_", "ones_like",
        "rand_like", "randn_like", "randint_like", "uniform_", "zeros_like", "op_Implicit",

        // the tensor itself, cut off or with other storage
        "detach", "detach_", "set_", "requires_grad_", "with_requires_grad", "DetachFromDisposeScope", "MoveToOtherDisposeScope", "MoveToOuterDisposeScope", "WrappedTensorDisposeScope", "grad",
    };

    /// <summary>Conversions, whose gradient is that of a copy and which finite differences in float64 cannot follow.</summary>
    private static readonly HashSet<string> Conversions = new(StringComparer.Ordinal)
    {
        "to", "to_type", "type", "type_as", "cpu", "cuda", "half", "bfloat16", "float", "double", "bool", "byte", "short", "int", "long",
    };

    public static TheoryData<int, string> Cases() => new(GradientCases.All().Select((c, i) => (i, c.ToString())));

    [Theory]
    [MemberData(nameof(Cases))]
    public void Gradient_equals_the_difference_quotient(int index, string name)
    {
        var test = GradientCases.All().ElementAt(index);
        test.ToString().ShouldBe(name);
        using var scope = NewDisposeScope();
        using var generator = new Generator((ulong)index + 1);
        var inputs = test.Inputs.Select(i => (rand(i.Shape, float64, generator: generator) * (i.High - i.Low) + i.Low).requires_grad_()).ToArray();
        var output = test.Call(inputs);
        output.requires_grad.ShouldBeTrue("the result does not depend on its inputs");
        var weights = randn(output.shape, float64, generator: generator);
        (output * weights).sum().backward();
        foreach (var (position, input) in inputs.Index())
        {
            var gradient = input.grad is { } g ? g.contiguous().data<double>().ToArray() : new double[input.numel()];
            for (var element = 0; element < gradient.Length; element++)
            {
                var numeric = (Value(position, element, Step) - Value(position, element, -Step)) / (2 * Step);
                gradient[element].ShouldBe(numeric, Tolerance * Math.Max(1, Math.Abs(numeric)), $"input {position}, element {element}");
            }
        }

        double Value(int position, int element, double shift)
        {
            using var inner = NewDisposeScope();
            using var frozen = no_grad();
            var moved = inputs.Select(i => i.detach().clone()).ToArray();
            MemoryMarshal.Cast<byte, double>(moved[position].bytes)[element] += shift;
            return (test.Call(moved) * weights).sum().item<double>();
        }
    }

    [Fact]
    public void Every_operator_is_checked_or_listed_as_having_no_gradient()
    {
        var known = GradientCases.All().Select(c => c.Name).Concat(WithoutGradient).Concat(Conversions).ToHashSet(StringComparer.Ordinal);
        const BindingFlags own = BindingFlags.Public | BindingFlags.Instance | BindingFlags.Static | BindingFlags.DeclaredOnly;
        var exposed = new[] { typeof(Tensor), typeof(nn.functional), typeof(linalg), typeof(torch) }
            .SelectMany(type => type.GetMembers(own).Where(m => m switch
            {
                MethodInfo method => (!method.IsSpecialName || method.Name.StartsWith("op_", StringComparison.Ordinal))
                    && GivesTensors(method.ReturnType) && (type == typeof(Tensor) || method.GetParameters().Any(p => TakesTensors(p.ParameterType))),
                PropertyInfo property => GivesTensors(property.PropertyType),
                _ => false,
            }))
            .Select(m => m.Name)
            .ToHashSet(StringComparer.Ordinal);
        exposed.Count.ShouldBeGreaterThan(200);
        exposed.Except(known, StringComparer.Ordinal).Order(StringComparer.Ordinal).ShouldBeEmpty();
        known.Except(exposed, StringComparer.Ordinal).Except(["randint_like", "new_ones"], StringComparer.Ordinal).ShouldBeEmpty("these are listed, but the binding has them no more");
    }

    [Fact]
    public void Conversions_hand_gradients_back_in_the_type_of_the_input()
    {
        using var scope = NewDisposeScope();
        Func<Tensor, Tensor>[] conversions =
        [
            x => x.to(ScalarType.Float32), x => x.to(ScalarType.Float16), x => x.bfloat16(), x => x.half(), x => x.@float(), x => x.to(zeros(1, ScalarType.Float32)),
            x => x.type(ScalarType.Float32), x => x.type_as(zeros(1, ScalarType.Float32)), x => x.to_type(ScalarType.BFloat16), x => x.to(ScalarType.Float32, CPU),
            x => x.to(CPU).@double(), x => x.cpu(),
        ];
        foreach (var convert in conversions)
        {
            var x = tensor(new double[] { 1, 2 }, requires_grad: true);
            (convert(x) * 3).sum().backward();
            x.grad!.dtype.ShouldBe(ScalarType.Float64);
            x.grad.data<double>().ToArray().ShouldBe([3, 3]);
        }
    }

    /// <summary>torch.f(x, ...) is x.f(...): compared wherever the values can be made up.</summary>
    [Fact]
    public void Functions_agree_with_the_methods_of_the_same_name()
    {
        var compared = 0;
        foreach (var function in typeof(torch).GetMethods(BindingFlags.Public | BindingFlags.Static | BindingFlags.DeclaredOnly))
        {
            var parameters = function.GetParameters();
            if (function.ReturnType != typeof(Tensor) || parameters.Length == 0 || parameters[0].ParameterType != typeof(Tensor) || function.Name is "bernoulli" or "multinomial" or "rand_like" or "randn_like" or "empty_like")
                continue;
            var method = typeof(Tensor).GetMethod(function.Name, BindingFlags.Public | BindingFlags.Instance, [.. parameters.Skip(1).Select(p => p.ParameterType)]);
            if (method is null || method.ReturnType != typeof(Tensor) || parameters.Skip(1).Any(p => !Known(p)))
                continue;
            using var scope = NewDisposeScope();
            var arguments = parameters.Select(p => Made(p)).ToArray();
            Tensor expected, result;
            try
            {
                expected = (Tensor)method.Invoke(((Tensor)arguments[0]!).clone(), arguments[1..])!;
            }
            catch (TargetInvocationException e) when (e.InnerException is ExternalException)
            {
                continue; // made-up arguments that do not fit this operator
            }

            arguments[0] = ((Tensor)arguments[0]!).clone();
            result = (Tensor)function.Invoke(null, arguments)!;
            result.dtype.ShouldBe(expected.dtype, function.Name);
            result.allclose(expected, 0, 0, equal_nan: true).ShouldBeTrue(function.ToString());
            compared++;
        }

        compared.ShouldBeGreaterThan(80);

        static bool Known(ParameterInfo p) => p.HasDefaultValue || p.ParameterType == typeof(Tensor) || p.ParameterType == typeof(Scalar) || p.ParameterType == typeof(long);

        static object? Made(ParameterInfo p) => p.ParameterType == typeof(Tensor) ? tensor(new double[] { 0.5, 0.25, -0.5, 0.125, 0.75, -0.25, 0.6, 0.3, 0.1 }).reshape(3, 3)
            : p.ParameterType == typeof(Scalar) ? (Scalar)0.5
            : p.HasDefaultValue ? p.DefaultValue
            : 1L;
    }

    private static bool GivesTensors(Type type) => type == typeof(Tensor) || type == typeof(Tensor[]) || (type.IsGenericType && type.IsValueType && type.GetGenericArguments().Contains(typeof(Tensor)));

    private static bool TakesTensors(Type type) => type == typeof(Tensor) || type.GetElementType() == typeof(Tensor) || (type.IsGenericType && type.GetGenericArguments().Contains(typeof(Tensor)));
}
