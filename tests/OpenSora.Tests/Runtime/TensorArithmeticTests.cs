using Mono.Cecil;
using OpenSora.Generation;
using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Tests.Runtime;

/// <summary>Tests that no number is freed while libtorch reads it.</summary>
public class TensorArithmeticTests
{
    private static readonly ScalarUses Uses = new();

    public static TheoryData<string> Libraries =>
        ["OpenSora", "OpenSora.Training", "OpenSora.Preparation", "OpenSora.Cuda", "OpenSora.Extensions.AI", "OpenSora.Cli"];

    [Theory]
    [MemberData(nameof(Libraries))]
    public void Libraries_hand_no_temporary_scalar_to_native_code(string library) =>
        Uses.In(PathOf(library)).ShouldBeEmpty("use the methods of TensorArithmetic");

    [Fact]
    public void A_temporary_scalar_is_found()
    {
        var file = $"{nameof(TensorArithmeticTests)}.cs:";
        var found = Uses.In(typeof(TensorArithmeticTests).Assembly.Location).Where(use => use.Contains(file, StringComparison.Ordinal));

        found
            .Select(use => use[(use.IndexOf(" calls ", StringComparison.Ordinal) + 7)..])
            .ShouldBe(
                [
                    "op_Addition(Tensor, Tensor)",
                    "op_Subtraction(Tensor, Int32)",
                    "square()",
                    "clamp(Scalar, Scalar)",
                    "AdamW(IEnumerable`1, Double, Double, Double, Double, Double, Boolean, Boolean)",
                ],
                ignoreOrder: true
            );
    }

    [Fact]
    public void Scalars_are_kept_until_the_operation_returns()
    {
        using var module = ModuleDefinition.ReadModule(typeof(VideoGenerator).Assembly.Location);
        var methods = module.GetType(ScalarUses.SafeClass).Methods.Where(method => method.Name is not ("Keep" or ".cctor")).ToArray();

        methods.ShouldNotBeEmpty();
        foreach (var method in methods)
        {
            var calls = ScalarUses.Calls(method).Select(call => call.Method).ToArray();
            calls.ShouldNotContain(call => ScalarUses.IsConversion(call) || Uses.Creates(call), method.FullName);
            // The scalar is the first argument of Keep and the operation is the second one.
            calls.Count(call => call.Name is "Keep").ShouldBe(method.Parameters.Count(p => p.ParameterType.Name is "Scalar"), method.FullName);
        }
    }

    [Fact]
    public void Numbers_survive_garbage_collections()
    {
        using var scope = NewDisposeScope();
        using var end = new CancellationTokenSource();
        var collector = new Thread(() =>
        {
            while (!end.IsCancellationRequested)
            {
                GC.Collect(0);
                GC.WaitForPendingFinalizers();
            }
        });
        collector.Start();
        try
        {
            for (var i = 0; i < 3000; i++)
            {
                using var inner = NewDisposeScope();
                // Many small operations first: only optimized code drops objects early, and methods are optimized after some calls. Then libtorch
                // converts so many whole numbers to floating-point numbers, before it reads the scalar, that a collection fits in.
                var size = i < 2000 ? 1 : 300_000;
                var (sum, whole, factor) = (zeros(size), ones(size, ScalarType.Int64), ones(size));
                sum.AddProductInPlace(whole, factor, 3).max().item<float>().ShouldBe(3);
                whole.Plus(factor).max().item<float>().ShouldBe(2);
            }
        }
        finally
        {
            end.Cancel();
            collector.Join();
        }
    }

    // Operations that TensorArithmetic replaces; they are read and not run.
    private static Tensor Unsafe(Tensor x, Tensor y) => x + y - 1;

    private static Tensor UnsafeInside(Tensor x) => x.square();

    private static Func<Tensor, Tensor> UnsafeLambda() => x => x.clamp(0, 1);

    private static object UnsafeOptimizer(IEnumerable<TorchSharp.Modules.Parameter> parameters) => optim.AdamW(parameters);

    private static Tensor Safe(Tensor x, Tensor y) => (x - y) * y / x;

    private static string PathOf(string library) => Path.Combine(AppContext.BaseDirectory, $"{library}.dll");
}
